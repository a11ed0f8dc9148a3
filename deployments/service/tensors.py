"""One tensor of the Open Inference Protocol as a column of values."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from deployments.service.bodies import RequestError

NUMBERS = {
    "BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
TEXT = "BYTES"
BINARY_SIZE = "binary_data_size"


def read_tensor(tensor: Any, binary: memoryview) -> tuple[str, list[Any], memoryview]:
    """Return a tensor's name, its values as one column, and what is left of the bytes behind the JSON.

    Raises RequestError 400 if it is none of shape [rows] or [rows, 1], or its values are not as its shape and type say.
    """
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise RequestError(400, "each input must be an object with name, shape, datatype and data")
    name, kind = tensor["name"], tensor.get("datatype")
    told = repr(name[:80])
    if kind != TEXT and kind not in NUMBERS:
        raise RequestError(400, f"input {told}: datatype must be one of {', '.join((*NUMBERS, TEXT))}")
    rows = _rows(told, tensor.get("shape"))
    parameters = tensor.get("parameters") or {}
    size = parameters.get(BINARY_SIZE) if isinstance(parameters, dict) else None
    if size is None:
        return name, _from_json(told, kind, tensor.get("data"), rows), binary
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary):
        raise RequestError(400, f"input {told}: {BINARY_SIZE} must be the number of its bytes behind the JSON")
    part = binary[:size]
    values = _texts(told, part, rows) if kind == TEXT else _numbers(told, kind, part, rows)
    return name, values, binary[size:]


def _rows(told: str, shape: Any) -> int:
    whole = isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)
    if not whole or len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise RequestError(400, f"input {told}: shape must be [rows] or [rows, 1]; one tensor holds one feature")
    return int(shape[0])


def _from_json(told: str, kind: str, data: Any, rows: int) -> list[Any]:
    if not isinstance(data, list):
        raise RequestError(400, f"input {told}: data must be a list of values")
    if data and all(isinstance(value, list) and len(value) == 1 for value in data):
        data = [value[0] for value in data]  # nested as its shape, which is allowed
    if len(data) != rows:
        raise RequestError(400, f"input {told}: {len(data)} values do not fill {rows} rows")
    allowed = (str,) if kind == TEXT else (bool,) if kind == "BOOL" else (int, float)
    for value in data:
        if value is not None and (not isinstance(value, allowed) or (isinstance(value, bool) and kind != "BOOL")):
            raise RequestError(400, f"input {told}: a value is not of type {kind}")
    return list(data)


def _numbers(told: str, kind: str, part: memoryview, rows: int) -> list[Any]:
    dtype = np.dtype(NUMBERS[kind])
    if len(part) != rows * dtype.itemsize:
        raise RequestError(400, f"input {told}: {len(part)} bytes do not hold {rows} values of type {kind}")
    values: list[Any] = np.frombuffer(part, dtype).tolist()
    return values


def _texts(told: str, part: memoryview, rows: int) -> list[str]:
    """Read texts, each behind its length in four bytes, little end first."""
    values = []
    try:
        while len(part):
            (length,) = struct.unpack_from("<I", part)
            if length > len(part) - 4:
                raise ValueError("it ends in the middle of a text")
            values.append(bytes(part[4 : 4 + length]).decode())
            part = part[4 + length :]
    except (struct.error, ValueError) as error:
        raise RequestError(400, f"input {told}: its bytes are no texts ({error})") from None
    if len(values) != rows:
        raise RequestError(400, f"input {told}: {len(values)} texts do not fill {rows} rows")
    return values
