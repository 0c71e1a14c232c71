"""Decoding over a `decode_step` function: greedy, sampling, beam search.

Everything here is pure, has static shapes and stops as soon as all examples
are finished. A decode is jitted as a whole:

    @functools.partial(jax.jit, static_argnames="length")
    def decode(params, tokens, *, length):
      encoded = model.encode(params, tokens)
      cache = model.init_cache(params, encoded, tokens, length)
      step = functools.partial(model.decode_step, params)
      return beam_search.beam_search(step, cache, max_decode_length=length)

Sequences begin with the input token 0, end with (and include) `eos_id`, and
are padded with 0. What an example decodes to depends on that example alone,
never on its neighbours in the batch (sampling: on its place in the batch).
"""
