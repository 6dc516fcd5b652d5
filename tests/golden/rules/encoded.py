"""The encodings of updates as adapters/encoding_format.h describes them, in NumPy: bytes to values, and values to bytes."""

import numpy as np

BLOCK = 128


def blocks(size):
    return [(at, min(at + BLOCK, size)) for at in range(0, size, BLOCK)]


def to_bf16(values):
    """The upper half of an fp32, rounded to nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def quantise(tensor, most):
    """A scale for each block, fl32(max|x| / most), and codes: x / scale rounded to nearest, ties to even."""
    scales, codes = [], []
    for begin, end in blocks(tensor.size):
        block = tensor[begin:end].astype(np.float64)
        scale = np.float32(np.abs(block).max() / most)
        scales.append(scale)
        codes.append(np.clip(np.rint(block / np.float64(scale)), -most, most) if scale else np.zeros(end - begin))
    return np.array(scales, np.float32), np.concatenate(codes).astype(np.int8)


def half_bytes(codes):
    """Two codes to a byte, the lower half first; a tensor begins at a byte."""
    padded = np.append(codes, np.zeros(codes.size % 2, np.int8)).view(np.uint8) & 15
    return padded[0::2] | padded[1::2] << 4


def encode(values, encoding, density):
    """The bytes of a list of tensors."""
    flat = [np.asarray(v, np.float32).ravel() for v in values]
    whole = np.concatenate(flat)
    if encoding == "bf16":
        return to_bf16(whole).tobytes()
    if encoding == "f16":
        return whole.astype(np.float16).tobytes()
    if encoding == "topk":
        kept = []
        for t in flat:
            count = min(max(int(np.ceil(density * t.size)), 1), t.size)
            kept.append(np.sort(np.argsort(-np.abs(t), kind="stable")[:count]))
        parts = [np.array([len(k) for k in kept], np.uint32).tobytes()]
        for t, k in zip(flat, kept):
            parts.append(np.array(list(zip(k, t[k])), dtype=[("index", "<u4"), ("value", "<f4")]).tobytes())
        return b"".join(parts)
    parts = [quantise(t, 127 if encoding == "int8" else 7) for t in flat]
    codes = [c if encoding == "int8" else half_bytes(c) for _, c in parts]
    return b"".join([s.tobytes() for s, _ in parts] + [c.tobytes() for c in codes])


def decode(data, sizes, encoding):
    """The values of tensors of these sizes, flat, in fp32."""
    total = sum(sizes)
    if encoding == "bf16":
        whole = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif encoding == "f16":
        whole = np.frombuffer(data, "<f2").astype(np.float32)
    elif encoding == "topk":
        counts, at, whole, begin = np.frombuffer(data, "<u4", len(sizes)), 4 * len(sizes), np.zeros(total, np.float32), 0
        for size, count in zip(sizes, counts):
            pairs = np.frombuffer(data, [("index", "<u4"), ("value", "<f4")], int(count), at)
            whole[begin + pairs["index"]] = pairs["value"]
            at, begin = at + 8 * int(count), begin + size
    else:
        number = sum(len(blocks(size)) for size in sizes)
        scales, codes = np.frombuffer(data, "<f4", number), np.frombuffer(data, np.uint8, offset=4 * number)
        values, block, at = [], 0, 0
        for size in sizes:
            length = size if encoding == "int8" else (size + 1) // 2
            own = codes[at : at + length]
            if encoding == "int4":
                own = np.stack([own & 15, own >> 4], axis=1).ravel()[:size]
                own = np.where(own < 8, own, own.astype(np.int16) - 16)
            own = own.astype(np.int8).astype(np.float32)
            for begin, end in blocks(size):
                values.append(own[begin:end] * scales[block])  # fl32(code * scale)
                block += 1
            at += length
        whole = np.concatenate(values)
    return np.split(whole, np.cumsum(sizes)[:-1])
