"""What the tests against real servers share."""

from __future__ import annotations

import logging

# a page of text for each request: to keep it costs more than to send it
for name in ("aiobotocore", "botocore", "s3fs", "urllib3"):
    logging.getLogger(name).setLevel(logging.INFO)
