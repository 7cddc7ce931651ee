"""The command line: one file a command group. Heavy imports stand inside the commands.

`newsloom --help` must answer at once, so `main` knows each command's name, place and one line of
help, and imports the file only when the command is used.
"""
