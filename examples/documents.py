"""A FlexAttention mask: causal attention within packed documents of 1,024 tokens."""

import numpy as np

document = np.repeat(np.arange(128), 1024)


def causal_document(b, h, q_idx, kv_idx):
    """Keep earlier keys of the query's own document."""
    return (q_idx >= kv_idx) & (document[q_idx] == document[kv_idx])
