"""What `sparsekd bench` measures: each part has ``measure``, numbers in JSON's types, and ``table``.

Everything is timed beside what one would use instead, in one run, as a ratio.
"""
