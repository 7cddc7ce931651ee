"""The status page: one HTML file with its style and script in it, and the policy that allows these.

The page carries no data. Its script asks for `/status.json` and puts what it finds into text nodes,
so there is no markup that a title could break out of; the policy lets no other script run.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

STATUS_PAGE: Final = Path(__file__).with_name("status.html").read_bytes()


def _hashes(tag: bytes) -> str:
    """Content-Security-Policy sources of every inline `tag` of the page."""
    found = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), STATUS_PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hashes(b'style')}",
        f"script-src {_hashes(b'script')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
