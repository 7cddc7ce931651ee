-- Runs once, when the server's data folder is made. The migrations find these roles and keep them;
-- here they get what migrations must not know: a password each. To change one later:
--   ALTER ROLE newsloom_ingest PASSWORD '...', then the file in secrets/, then restart who reads it.
\set ingest_password `cat /run/secrets/postgres_ingest_password`
\set link_password `cat /run/secrets/postgres_link_password`
\set relay_password `cat /run/secrets/postgres_relay_password`
\set admin_password `cat /run/secrets/postgres_admin_password`
\set reader_password `cat /run/secrets/grafana_postgres_password`
CREATE ROLE newsloom_ingest LOGIN PASSWORD :'ingest_password' CONNECTION LIMIT 200;
CREATE ROLE newsloom_link LOGIN PASSWORD :'link_password' CONNECTION LIMIT 20;
CREATE ROLE newsloom_relay LOGIN PASSWORD :'relay_password' CONNECTION LIMIT 20;
CREATE ROLE newsloom_admin LOGIN PASSWORD :'admin_password' CONNECTION LIMIT 20;
CREATE ROLE newsloom_reader LOGIN PASSWORD :'reader_password' CONNECTION LIMIT 20;
REVOKE CONNECT, TEMPORARY ON DATABASE newsloom FROM PUBLIC;
GRANT CONNECT ON DATABASE newsloom
    TO newsloom_ingest, newsloom_link, newsloom_relay, newsloom_admin, newsloom_reader;
