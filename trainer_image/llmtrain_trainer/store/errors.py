"""What can go wrong with a store, each with what to do about it.

Below: `failures.StoreError`. Above: `folder` and `s3` raise these.

`place` is where people look for it: an S3 endpoint, or the folder of a local run.
"""

from __future__ import annotations

from llmtrain_trainer.failures import StoreError


class StorageUnreachableError(StoreError):
    """The store does not answer."""


class BucketMissingError(StoreError):
    """There is no such bucket."""


class AccessDeniedError(StoreError):
    """The store knows the credentials not, or does not allow them this."""


class CredentialsMissingError(StoreError):
    """The files with the credentials are not there."""


class ObjectMissingError(StoreError):
    """There is no such object."""


class ObjectExistsError(StoreError):
    """There is one already, and it was to be created."""


def explain_unreachable(place: str, why: str) -> StorageUnreachableError:
    """Say that the store at `place` does not answer."""
    return StorageUnreachableError(
        f"the store at {place} does not answer: {why}",
        reason="StorageUnreachable",
        next_step="check spec.storage.endpoint, and that pods may reach it",
    )


def explain_missing_bucket(place: str, bucket: str) -> BucketMissingError:
    """Say that the store has no such bucket."""
    return BucketMissingError(
        f"bucket {bucket} does not exist at {place}",
        reason="BucketMissing",
        next_step=f"create bucket {bucket}, or correct the URI",
    )


def explain_denied(place: str, uri: str, why: str) -> AccessDeniedError:
    """Say that the store refuses a request about `uri`."""
    return AccessDeniedError(
        f"the store at {place} refuses access to {uri}: {why}",
        reason="AccessDenied",
        next_step="check the keys in the Secret spec.storage.credentialsSecret and their policy",
    )


def explain_missing_credentials(path: str) -> CredentialsMissingError:
    """Say which file of the credentials is not there."""
    return CredentialsMissingError(
        f"the store's credentials are missing: there is no file {path}, or it is empty",
        reason="CredentialsMissing",
        next_step="give the Secret spec.storage.credentialsSecret the keys accessKey and secretKey",
    )


def explain_missing_object(place: str, uri: str) -> ObjectMissingError:
    """Say that there is no object at `uri`."""
    return ObjectMissingError(
        f"{uri} does not exist at {place}",
        reason="ObjectMissing",
        next_step="check whether it was deleted or the URI is wrong",
    )


def explain_existing_object(uri: str) -> ObjectExistsError:
    """Say that there is an object at `uri` already."""
    return ObjectExistsError(
        f"{uri} exists already",
        reason="ObjectExists",
        next_step="another writer was first; what it wrote stays",
    )


def explain_foreign_server(place: str, why: str) -> StorageUnreachableError:
    """Say that what answers at `place` is no S3 server."""
    return StorageUnreachableError(
        f"what answers at {place} is no S3 server: {why}",
        reason="StorageUnreachable",
        next_step="give the address of the S3 API in spec.storage.endpoint; "
        "a console for browsers listens on another port",
    )


def explain_failure(place: str, uri: str, why: str) -> StoreError:
    """Say that a request about `uri` failed in a way that has no name of its own."""
    return StoreError(
        f"the store at {place} failed on {uri}: {why}",
        reason="StorageFailed",
        next_step="look at the store's own log; the stage is tried again",
    )
