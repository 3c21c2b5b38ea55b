"""What an object store's answer means, by its HTTP status and its error code, whichever client library heard it."""

from __future__ import annotations

import attrs

from headrace.errors import CommitUnknownError, ConfigError, HeadraceError, SinkUnavailableError


@attrs.frozen
class Answer:
    """
    An answer that is not the one that was hoped for.

    Attributes:
        status: Of HTTP; None where there was no answer.

        code: The store's own word, ``SlowDown``; "" where it said none.

        text: For people.

        sent: Whether the request may have arrived; False where not even a connection was made.
    """

    status: int | None
    code: str = ""
    text: str = ""
    sent: bool = True

    def __str__(self) -> str:
        words = [str(self.status) if self.status else "", self.code, self.text]
        return " ".join(word for word in words if word) or "no answer"


_PERMISSIONS = (
    "the credentials need s3:PutObject, s3:GetObject and s3:ListBucket here, and s3:DeleteObject for the probe's own"
    " keys (_headrace/probes/)"
)
_CREDENTIALS = "check the credentials: access_key and secret_key, or AWS_ACCESS_KEY_ID, AWS_PROFILE, the machine's role"
_REGION = "name the bucket's region (region=eu-central-1) and, for a store that is not AWS, its endpoint_url"
_NO_CREATE = (
    "this store has no create-only write (If-None-Match: *), on which exactly-once rests; use one that has, or a newer"
    " version of it"
)
_KMS = "check sse_kms_key_id and the right to use this key"

_WAYS_OUT = {
    "AccessDenied": _PERMISSIONS,
    "AllAccessDisabled": _PERMISSIONS,
    "AccountProblem": _PERMISSIONS,
    "AuthorizationHeaderMalformed": _REGION,
    "CertificateNotTrusted": "name its authority's certificates (ca_file=/path/to/ca.pem)",
    "EntityTooLarge": "one PUT takes 5 GiB at the most: flush smaller segments",
    "ExpiredToken": _CREDENTIALS,
    "IllegalLocationConstraintException": _REGION,
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidBucketName": "mend the bucket's name",
    "InvalidObjectState": "it is archived: restore it to a class that is readable at once",
    "InvalidStorageClass": "mend storage_class",
    "InvalidToken": _CREDENTIALS,
    "NoSuchBucket": "make the bucket, or mend its name",
    "NotImplemented": _NO_CREATE,
    "PermanentRedirect": _REGION,
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": _CREDENTIALS,
    "TokenRefreshRequired": _CREDENTIALS,
    "XAdminUserNotFound": _CREDENTIALS,
}
"""Codes of Amazon's list of S3 error responses that another attempt does not change, and what does."""

_BY_STATUS = {
    301: _REGION,
    401: _CREDENTIALS,
    403: _PERMISSIONS,
    501: _NO_CREATE,
}

_NOT_STORED = {
    "BadDigest",
    "IncompleteBody",
    "RequestTimeout",
    "SlowDown",
    "TemporaryRedirect",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
    "XMinioServerNotInitialized",
}
"""Refused for now: the body was damaged or came too slowly, or there were too many requests."""


_MISSING = ("BlobNotFound", "NoSuchKey", "NoSuchObject", "NotFound")

_NO_CODE = ("", "404")
"""What a client makes of a 404 without a code: whatever stands before the store has answered, a load balancer's page."""


def is_missing(answer: Answer) -> bool:
    """
    Say whether an object is not there: the store says so by a code.

    A bucket that is not there, a key that nobody knows, and a proxy that does not find the store have the same status.
    """
    return answer.status == 404 and answer.code in _MISSING


def failed(answer: Answer, what: str, *, writing: bool) -> HeadraceError:
    """
    Make our error of an answer.

    Args:
        answer: Neither success nor "the name is taken" nor "no such object": those are the caller's.

        what: What was being done, and where.

        writing: Whether an answer that is not known leaves a write unknown.

    Returns:
        SinkUnavailableError: Nothing was stored; CommitUnknownError: perhaps it was (B25); ConfigError: it was not, and
        another attempt does not help.
    """
    words = f"cannot {what}: {answer}"
    if not answer.sent or answer.code in _NOT_STORED or answer.status in (307, 408, 425, 429):
        return SinkUnavailableError(words)
    unknown = (
        answer.status is None
        or answer.status in (200, 409)
        or (answer.status == 404 and answer.code in _NO_CODE)
        or (answer.status >= 500 and answer.status != 501)
    )
    if unknown and answer.code not in _WAYS_OUT:
        return CommitUnknownError(words) if writing else SinkUnavailableError(words)
    way_out = _WAYS_OUT.get(answer.code) or _BY_STATUS.get(answer.status or 0)
    if way_out is None:
        way_out = _KMS if answer.code.startswith("KMS.") else "check the settings of the store"
    return ConfigError(f"{words}; {way_out}")
