"""From records to packed batches: sub-tasks, tokens, sampling, packing."""
