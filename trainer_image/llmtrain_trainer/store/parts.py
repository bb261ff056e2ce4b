"""A large object, sent in parts: several at once, by presigned URLs, straight from memory.

Below: `minio` (signatures and the messages around the parts) and urllib3, which hands a view of
memory to the socket as it is. minio-py's own upload copies and digests each part, which takes
seven times the processor time. Above: `s3`.

What can be sent again is: a part replaces itself. Completing an upload cannot, because the answer
that was lost may have been a success; so the object that is there then decides.
"""

from __future__ import annotations

import logging
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.datatypes import Part
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

logger = logging.getLogger(__name__)

PART_BYTES = 64 * 1024 * 1024
PARTS_AT_ONCE = 4
MAX_PARTS = 10_000
"""What S3 allows of one object."""

SEND_BYTES = 1024 * 1024
TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)
"""urllib3 takes the first one for how long sending one of these pieces may take, too. With a part
in one piece it would be how long all of the part may take."""

URL_LIFETIME = timedelta(minutes=15)
"""Longer than any part takes: a URL is made just before it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsUploader:
    """Uploads to one bucket."""

    client: Minio
    http: urllib3.PoolManager
    bucket: str
    retries: urllib3.Retry
    """Of one part. Nobody waits for it, and all of the object is lost with it."""

    def put(self, name: str, data: memoryview, *, part_bytes: int = PART_BYTES) -> None:
        """Create or replace the object `name`; a failed upload leaves no parts behind.

        Raises:
            S3Error: the server refuses.
            HTTPError: it does not answer.
        """
        if len(data) <= part_bytes:
            self._send(name, data, {})
            return
        part_bytes = max(part_bytes, -(-len(data) // MAX_PARTS))
        upload = self.client._create_multipart_upload(self.bucket, name, {})
        try:
            parts = self._send_parts(name, upload, data, part_bytes)
            self._complete(name, upload, parts, len(data))
        except BaseException:
            # A server that is gone keeps them until `abort_uploads` of the next start.
            with suppress(MinioException, HTTPError):
                self.client._abort_multipart_upload(self.bucket, name, upload)
            raise

    def abort_uploads(self, prefix: str) -> int:
        """Remove the parts of every unfinished upload under `prefix`; return how many there were.

        MinIO knows uploads by their whole names only, so all of the bucket are listed.
        """
        count = 0
        marker: str | None = None
        while True:
            found = self.client._list_multipart_uploads(self.bucket, key_marker=marker)
            for upload in found.uploads:
                name, number = upload.object_name, upload.upload_id
                if number is not None and name.startswith(prefix):
                    self.client._abort_multipart_upload(self.bucket, name, number)
                    count += 1
            marker = found.next_key_marker
            if not found.is_truncated or not marker:
                return count

    def _send_parts(self, name: str, upload: str, data: memoryview, part_bytes: int) -> list[Part]:
        starts = range(0, len(data), part_bytes)

        def send(number: int) -> Part:
            part = data[starts[number] : starts[number] + part_bytes]
            query = {"partNumber": str(number + 1), "uploadId": upload}
            return Part(number + 1, self._send(name, part, query))

        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="part") as pool:
            futures = [pool.submit(send, number) for number in range(len(starts))]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            if any(future.exception() for future in done):
                pool.shutdown(wait=False, cancel_futures=True)
        for future in done:
            future.result()  # raises what the first one met that failed
        return [future.result() for future in futures]

    def _send(self, name: str, data: memoryview, query: dict[str, str]) -> str:
        """Send bytes from memory and return the ETag that the server gave them."""
        url = self.client.get_presigned_url(
            "PUT",
            self.bucket,
            name,
            expires=URL_LIFETIME,
            extra_query_params=dict(query),
        )
        # urllib3 takes any buffers, and says otherwise.
        pieces: list[Any] = [data[at : at + SEND_BYTES] for at in range(0, len(data), SEND_BYTES)]
        answer = self.http.request(
            "PUT",
            url,
            body=pieces,
            headers={"Content-Length": str(len(data))},
            retries=self.retries,
            timeout=TIMEOUT,
        )
        if answer.status >= 300:
            raise read_refusal(answer)
        return str(answer.headers.get("ETag", "")).strip('"')

    def _complete(self, name: str, upload: str, parts: list[Part], size: int) -> None:
        try:
            self.client._complete_multipart_upload(self.bucket, name, upload, parts)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            logger.info("%s: completed by a request whose answer was lost", name)
        # A server may say 200 before it knows, and an error in the body after that.
        found = self.client.stat_object(self.bucket, name).size
        if found != size:
            raise MinioException(f"has {found} bytes after an upload of {size}")


def read_refusal(answer: urllib3.BaseHTTPResponse) -> MinioException:
    """Return what the server says for why it refuses a request by a presigned URL."""
    try:
        error = S3Error.fromxml(answer)
    except (ValueError, ParseError):  # of a proxy before the store, or without a body
        error = None
    if error is not None and error.code:
        return error
    return MinioException(f"HTTP status {answer.status}")
