"""Element types: what runs, NumPy and PyTorch call them."""

import numpy as np


def _bfloat16():
    """The NumPy type of bfloat16, or uint16 (its bits) where ml_dtypes is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(np.uint16)
    return np.dtype(ml_dtypes.bfloat16)


_NUMPY = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def torch_name(dtype):
    """What a run calls a PyTorch type; None where a run has no such type."""
    return NAMES.get(str(dtype).removeprefix("torch."))


def numpy_type(name):
    return _bfloat16() if name == "BF16" else _NUMPY[name]
