"""A stand-in for esdk-obs-python: the calls and answers that mindloc uses, over a dictionary, two objects per page.

``answers`` is a list of statuses for the next calls; 0 raises as a broken connection does, 200 is no trouble.
"""

from pathlib import Path
from types import SimpleNamespace

PAGE = 2
objects: dict[tuple[str, str], bytes] = {}
answers: list[int] = []
clients: list[dict] = []


def _answer(status=200, body=None):
    bad = status >= 300
    return SimpleNamespace(
        status=status,
        body=body,
        reason="Service Unavailable" if bad else "OK",
        errorMessage="Please reduce your request rate." if bad else None,
    )


def _trouble():
    status = answers.pop(0) if answers else 200
    if status == 0:
        raise ConnectionResetError("connection reset by peer")
    return _answer(status) if status >= 300 else None


class ObsClient:
    def __init__(self, **options):
        clients.append(options)

    def listObjects(self, bucketName, prefix=None, marker=None, max_keys=None):
        if trouble := _trouble():
            return trouble
        keys = sorted(key for bucket, key in objects if bucket == bucketName and key.startswith(prefix or ""))
        rest = [key for key in keys if marker is None or key > marker]
        contents = [SimpleNamespace(key=key, size=len(objects[bucketName, key])) for key in rest[:PAGE]]
        truncated = len(rest) > PAGE
        return _answer(
            body=SimpleNamespace(
                contents=contents, is_truncated=truncated, next_marker=contents[-1].key if truncated else None
            )
        )

    def getObjectMetadata(self, bucketName, objectKey):
        if trouble := _trouble():
            return trouble
        data = objects.get((bucketName, objectKey))
        return _answer(404) if data is None else _answer(body=SimpleNamespace(contentLength=len(data)))

    def getObject(self, bucketName, objectKey, downloadPath=None):
        if trouble := _trouble():
            return trouble
        Path(downloadPath).write_bytes(objects[bucketName, objectKey])
        return _answer()

    def putFile(self, bucketName, objectKey, file_path):
        if trouble := _trouble():
            return trouble
        objects[bucketName, objectKey] = Path(file_path).read_bytes()
        return _answer()

    def deleteObject(self, bucketName, objectKey):
        if trouble := _trouble():
            return trouble
        objects.pop((bucketName, objectKey), None)
        return _answer(204)
