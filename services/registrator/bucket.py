"""The evidence bucket, through SeaweedFS's S3 API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from services.registrator.settings import RegistratorSettings

TYPES = {".mp4": "video/mp4", ".jpg": "image/jpeg"}


class BucketError(Exception):
    """The bucket does not take it; trying again may help."""


class Bucket:
    """Uploads files. Blocking: call it in a thread."""

    def __init__(self, settings: RegistratorSettings) -> None:
        self.name = settings.evidence_bucket
        self._url = settings.s3_url.rstrip("/")
        signed = bool(settings.s3_access_key)
        config = Config(
            connect_timeout=3,
            read_timeout=30,
            retries={"max_attempts": 2},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            **({} if signed else {"signature_version": UNSIGNED}),
        )
        keys: dict[str, Any] = (
            {"aws_access_key_id": settings.s3_access_key, "aws_secret_access_key": settings.s3_secret_key}
            if signed
            else {}
        )
        self._client = boto3.client("s3", endpoint_url=self._url, region_name="us-east-1", config=config, **keys)
        self._exists = False

    def upload(self, path: Path, key: str) -> str:
        """Store a file under ``key`` and return its URL. Raises BucketError."""
        try:
            self._create()
            extra = {"ContentType": TYPES.get(path.suffix, "application/octet-stream")}
            self._client.upload_file(str(path), self.name, key, ExtraArgs=extra)
        except (BotoCoreError, ClientError, OSError, boto3.exceptions.S3UploadFailedError) as error:
            self._exists = False
            raise BucketError(f"s3_url {self._url}, bucket {self.name}: {error}") from error
        return f"{self._url}/{self.name}/{key}"

    def _create(self) -> None:
        if self._exists:
            return
        try:
            self._client.head_bucket(Bucket=self.name)
        except ClientError:
            self._client.create_bucket(Bucket=self.name)
        self._exists = True
