"""Mistakes with the files and folders of runs, models and logs: each takes an empty folder."""

from sparsekd_jax import distill
from sparsekd_jax.targets import readers
from tests.mistakes.things import (
    fit,
    loaded_by_another_function,
    loaded_by_its_class,
    read,
    read_compressed,
    resumed_with_another_plan,
)

FOLDERS = [
    (
        "another configuration",
        loaded_by_another_function,
        TypeError,
        "build does not take what .*config.json holds, classes",
        r"lambda width: Net\(width",
    ),
    (
        "a class for what builds it",
        loaded_by_its_class,
        TypeError,
        "build does not take what .*config.json holds, width",
        r"lambda width: Net\(width",
    ),
    (
        "half a checkpoint",
        lambda folder: fit(checkpoint_dir=folder, keep=1.5),
        TypeError,
        r"got 1\.5",
        "keep must be a whole number",
    ),
    (
        "an empty log",
        lambda folder: read(folder, ""),
        readers.LogError,
        "the file is empty",
        "check its path",
    ),
    (
        "a plain text",
        lambda folder: read(folder, "hello\n"),
        readers.LogError,
        "line 1.*is not JSON",
        "remove it",
    ),
    (
        "a stream of events",
        lambda folder: read(folder, 'data: {"choices": []}\n\ndata: [DONE]\n'),
        readers.LogError,
        "line 1.*is not JSON",
        "keep what follows 'data:'",
    ),
    (
        "the end of a stream",
        lambda folder: read(
            folder, '{"choices": [{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}]}'
        ),
        readers.LogError,
        "line 1.*a chunk of a stream that holds no token",
        'remove the line, or pass on_error="skip"',
    ),
    (
        "the usage at the end of a stream",
        lambda folder: read(folder, '{"choices": [], "usage": {"total_tokens": 7}}'),
        readers.LogError,
        "line 1.*a chunk of a stream that holds no token",
        "remove the line",
    ),
    (
        "the first line of a stream that tells of its filters",
        lambda folder: read(folder, '{"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}'),
        readers.LogError,
        "line 1.*a chunk of a stream that holds no token",
        "remove the line",
    ),
    (
        "the end of a stream of completions",
        lambda folder: read(folder, '{"choices": [{"text": "", "logprobs": null, "finish_reason": "stop"}]}'),
        readers.LogError,
        "line 1.*a chunk of a stream that holds no token",
        "remove the line",
    ),
    (
        "a response of OpenAI's Responses that was not asked for log-probabilities",
        lambda folder: read(
            folder, '{"output": [{"content": [{"type": "output_text", "text": "a", "logprobs": []}]}]}'
        ),
        readers.LogError,
        "line 1.*no log-probabilities in a known form",
        r'include=\["message.output_text.logprobs"\] and top_logprobs=k',
    ),
    (
        "a response of OpenAI's Responses that calls a tool",
        lambda folder: read(folder, '{"output": [{"type": "function_call", "name": "f"}]}'),
        readers.LogError,
        "line 1.*a response that holds no text",
        "remove the line",
    ),
    (
        "the last line of a stream of Ollama",
        lambda folder: read(folder, '{"model": "m", "response": "", "done": true}'),
        readers.LogError,
        "line 1.*a chunk of a stream that holds no token",
        "remove the line",
    ),
    (
        "a whole answer of Ollama that was not asked for log-probabilities",
        lambda folder: read(folder, '{"message": {"role": "assistant", "content": "a"}, "done": true}'),
        readers.LogError,
        "line 1.*no log-probabilities in a known form",
        "logprobs=true",
    ),
    (
        "a chunk of reasoning without log-probabilities",
        lambda folder: read(folder, '{"choices": [{"delta": {"content": "", "reasoning_content": "so"}}]}'),
        readers.LogError,
        "line 1.*no log-probabilities in a known form",
        "logprobs=true",
    ),
    (
        "the last event of a text in a stream of Responses, which says again what its deltas said",
        lambda folder: read(
            folder,
            '{"type": "response.output_text.done", "logprobs": [{"token": "a", "logprob": -0.1, '
            '"top_logprobs": [{"token": "a", "logprob": -0.1}]}]}',
        ),
        readers.LogError,
        "line 1.*an event of a stream",
        "the event response.completed holds",
    ),
    (
        "a request of a batch that failed",
        lambda folder: read(
            folder, '{"custom_id": "a", "response": null, "error": {"message": "rate limited"}}'
        ),
        readers.LogError,
        "line 1.*the request failed: 'rate limited'",
        "remove the line",
    ),
    (
        "a request that vLLM refused",
        lambda folder: read(folder, '{"object": "error", "message": "no such model", "code": 404}'),
        readers.LogError,
        "line 1.*the request failed: 'no such model'",
        "remove the line",
    ),
    (
        "the event of an error in a stream of Responses",
        lambda folder: read(folder, '{"type": "error", "code": "server_error", "message": "overloaded"}'),
        readers.LogError,
        "line 1.*the request failed: 'overloaded'",
        "remove the line",
    ),
    (
        "a compressed log",
        read_compressed,
        readers.LogError,
        "byte 1 is not UTF-8",
        "gunzip it first",
    ),
    (
        "another form",
        lambda folder: read(folder, '{"text": "a"}'),
        readers.LogError,
        "no log-probabilities",
        "top_logprobs=k",
    ),
    (
        "another plan",
        resumed_with_another_plan,
        distill.CheckpointError,
        "supervised_steps is 1 there",
        "another checkpoint_dir",
    ),
]
