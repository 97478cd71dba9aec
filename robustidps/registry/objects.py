"""Artefacts in S3: what its client's errors mean, and whether a bucket can be used.

Endpoint and credentials come from where boto3 and MLflow look for them (`AWS_*`, `MLFLOW_S3_ENDPOINT_URL`, a profile,
the machine's role), so that nothing secret stands in a setting or on a command line.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from robustidps.errors import MissingExtraError, RegistryUnavailableError

__all__ = ["check_bucket", "make_bucket", "s3_error"]

_REMEDIES = {
    "NoSuchBucket": "make the bucket, or correct artifacts_uri",
    "404": "make the bucket, or correct artifacts_uri",
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile (docs/scaling.md)",
    "PartialCredentialsError": "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "the credentials need to list, read, write and delete below artifacts_uri",
    "403": "the credentials are wrong, or need to list, read, write and delete below artifacts_uri",
    "InvalidAccessKeyId": "correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY",
    "EndpointConnectionError": "check that it runs, and MLFLOW_S3_ENDPOINT_URL",
}


def s3_error(error: Exception, where: str) -> RegistryUnavailableError:
    """What an error of boto3's means, as one of ours."""
    code = str(getattr(error, "response", {}).get("Error", {}).get("Code", "")) or type(error).__name__
    text = " ".join(str(error).split())
    known = code if code in _REMEDIES else next((k for k in _REMEDIES if not k.isdigit() and k in text), code)
    return RegistryUnavailableError(
        f"the object store says: {text[:300]}", where=where, remedy=_REMEDIES.get(known, "robustidps doctor")
    )


def check_bucket(uri: str) -> None:
    """Writes and removes a small object below `uri`, `s3://BUCKET/PREFIX`, as artefacts are written there.

    Raises:
        MissingExtraError: boto3 isn't installed.
        RegistryUnavailableError: no answer, no such bucket, credentials that are missing or don't suffice.
    """
    client, bucket, prefix = _client(uri)
    key = f"{prefix}/.robustidps-{secrets.token_hex(8)}".lstrip("/")
    with _told(uri):
        client.put_object(Bucket=bucket, Key=key, Body=b"robustidps")
        client.get_object(Bucket=bucket, Key=key)["Body"].read()
        client.delete_object(Bucket=bucket, Key=key)


def make_bucket(uri: str) -> bool:
    """Makes the bucket of `uri` where there is none; true if it did. Raises what `check_bucket` raises."""
    client, bucket, _ = _client(uri)
    with _told(uri):
        if bucket in {found["Name"] for found in client.list_buckets().get("Buckets", [])}:
            return False
        region = client.meta.region_name
        where = {} if region in (None, "us-east-1") else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        client.create_bucket(Bucket=bucket, **where)
        return True


def _client(uri: str) -> tuple[Any, str, str]:
    """boto3's client, and bucket and prefix of `uri`."""
    try:
        import boto3
        from botocore.config import Config
    except ModuleNotFoundError:
        raise MissingExtraError("boto3", "s3") from None
    parts = urlsplit(uri)
    config = Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 2})
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None
    with _told(uri):
        client = boto3.Session().client("s3", endpoint_url=endpoint, config=config)
    return client, parts.netloc, parts.path.strip("/")


@contextmanager
def _told(uri: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise s3_error(error, uri) from None
