"""Writers of every form, from distributions, and what an independent reader sees in them."""

import json
import math

import numpy as np

from sparsekd_jax.targets import readers

TEXTS = ["a", "b", " the", "ß", "水", "\n", '"', "\\", ":", '":', "token", "logprob", " :", " x", "0", "yes"]
V = len(TEXTS)
TEXT_IDS = {text: i for i, text in enumerate(TEXTS)}
BYTE_IDS = {text.encode(): i for i, text in enumerate(TEXTS)}


def positions(rng, n, k, appended=False):
    """``n`` pairs (the top k of a random distribution over V, the chosen), as (id, log-probability)."""
    out = []
    for _ in range(n):
        p = np.log(rng.dirichlet(np.full(V, 0.3)) + 1e-9)
        p -= np.log(np.exp(p).sum())
        order = np.argsort(-p)[: k + 1]
        top = [(int(i), float(np.float32(p[i]))) for i in order[:k]]
        last = order[k]
        out.append((top, (int(last), float(np.float32(p[last]))) if appended else top[0]))
    return out


def chat_entry(i, lp, text=None):
    text = TEXTS[i] if text is None else text
    return {"token": text, "logprob": lp, "bytes": list(TEXTS[i].encode())}


def chat(rows, **kw):
    content = [
        {**chat_entry(*chosen), "top_logprobs": [chat_entry(*entry) for entry in top]} for top, chosen in rows
    ]
    return {"id": "c", "choices": [{"index": 0, "logprobs": {"content": content}, "finish_reason": "stop"}]}


def ollama(rows):
    (choice,) = chat(rows)["choices"]
    message = {"role": "assistant", "content": ""}
    return {"model": "m", "message": message, "done": True, "logprobs": choice["logprobs"]["content"]}


def responses(rows):
    (choice,) = chat(rows)["choices"]
    text = {"type": "output_text", "text": "", "annotations": [], "logprobs": choice["logprobs"]["content"]}
    output = [{"type": "reasoning", "summary": []}, {"type": "message", "content": [text]}]
    return {"object": "response", "output": output}


def completions(rows):
    tops = [{TEXTS[i]: lp for i, lp in dict([*top, chosen]).items()} for top, chosen in rows]
    chosen = [own for _, own in rows]
    log_probs = {
        "tokens": [TEXTS[i] for i, _ in chosen],
        "token_logprobs": [lp for _, lp in chosen],
        "top_logprobs": tops,
        "text_offset": list(range(len(rows))),
    }
    return {"choices": [{"text": "", "logprobs": log_probs}]}


def prompt(rows):
    out = [None]
    for top, chosen in rows:
        entries = {str(i): (lp, j + 1) for j, (i, lp) in enumerate(top)}
        first = entries.pop(str(chosen[0]), (chosen[1], len(top) + 3))
        entries = {str(chosen[0]): first, **entries}  # the prompt's own token comes first
        out.append({i: {"logprob": lp, "rank": r, "decoded_token": "x"} for i, (lp, r) in entries.items()})
    return {"choices": [{"text": "", "prompt_logprobs": out}]}


def sglang(rows):
    meta = {
        "output_token_logprobs": [[lp, i, None] for _, (i, lp) in rows],
        "output_top_logprobs": [[[lp, i, TEXTS[i]] for i, lp in top] for top, _ in rows],
    }
    return {"text": "", "meta_info": meta}


def llama_cpp(rows):
    return {
        "content": "",
        "completion_probabilities": [
            {
                "id": own[0],
                **chat_entry(*own),
                "top_logprobs": [{"id": i, **chat_entry(i, lp)} for i, lp in top],
            }
            for top, own in rows
        ],
    }


def tgi(rows):
    def token(i, lp):
        return {"id": i, "text": TEXTS[i], "logprob": lp, "special": False}

    details = {
        "tokens": [token(*own) for _, own in rows],
        "top_tokens": [[token(*e) for e in top] for top, _ in rows],
    }
    return {"generated_text": "", "details": details}


FORMS = {
    "chat": chat,
    "responses": responses,
    "ollama": ollama,
    "completions": completions,
    "prompt": prompt,
    "sglang": sglang,
    "llama.cpp": llama_cpp,
    "tgi": tgi,
}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def naive(record):
    """By position, ``{token: log-probability}`` of all that is seen, by the plainest code there is."""
    found = []
    if "meta_info" in record:
        meta = record["meta_info"]
        tops = meta.get("output_top_logprobs") or [None] * len(meta["output_token_logprobs"])
        for own, top in zip(meta["output_token_logprobs"], tops, strict=True):
            found.append([(e[1], e[0]) for e in [*(top or []), own]])
    elif "details" in record:
        details = record["details"]
        tops = details.get("top_tokens") or [[]] * len(details["tokens"])
        for own, top in zip(details["tokens"], tops, strict=True):
            found.append([(e["id"], e["logprob"]) for e in [*top, own]])
    elif "choices" not in record:
        listed = record.get("completion_probabilities") or record.get("logprobs")
        if listed is None:
            parts = [part for item in record["output"] for part in item.get("content") or ()]
            listed = [own for part in parts for own in part.get("logprobs", ())]
        by_id = "id" in listed[0]
        for own in listed:
            entries = [*(own.get("top_logprobs") or []), own]
            found.append([(_chat_id(e, by_id), e["logprob"]) for e in entries])
    elif "prompt_logprobs" in record["choices"][0]:
        for choice in record["choices"]:
            found += [
                [(int(i), e["logprob"]) for i, e in (top or {}).items()] for top in choice["prompt_logprobs"]
            ]
    else:
        for choice in record["choices"]:
            log_probs = choice["logprobs"]
            if "content" in log_probs:
                for own in log_probs["content"]:
                    entries = [*(own.get("top_logprobs") or []), own]
                    found.append(
                        [(_chat_id(e, "id" in log_probs["content"][0]), e["logprob"]) for e in entries]
                    )
            else:
                tops = log_probs.get("top_logprobs") or [None] * len(log_probs["tokens"])
                for own, lp, top in zip(log_probs["tokens"], log_probs["token_logprobs"], tops, strict=True):
                    found.append([(_text_id(t), x) for t, x in [*(top or {}).items(), (own, lp)]])
    out = []
    for entries in found:
        seen = {}
        for token, lp in entries:
            if lp is not None and lp > -9999:
                seen.setdefault(token, min(float(lp), 0.0))
        out.append(seen)
    return out


def _chat_id(entry, by_id):
    if by_id:
        return entry["id"]
    if entry["token"].startswith("token_id:"):
        return int(entry["token"].removeprefix("token_id:"))
    return (
        TEXT_IDS[entry["token"]] if entry.get("bytes") is None else BYTE_IDS[bytes(map(int, entry["bytes"]))]
    )


def _text_id(text):
    return int(text.removeprefix("token_id:")) if text.startswith("token_id:") else TEXT_IDS[text]


def tail(seen):
    """1 − Σ p, summed exactly."""
    return max(1 - math.fsum(math.exp(lp) for lp in seen.values()), 0.0)


def the_rows(path, **options):
    """All batches of a log as one of each array."""
    batches = list(readers.read_targets(path, **{"vocabulary": BYTE_IDS, **options}))
    fields = ("ids", "log_probs", "tail_mass", "num_ranked")
    out = {name: np.concatenate([np.asarray(getattr(b.targets, name)) for b in batches]) for name in fields}
    return out | {
        name: np.concatenate([getattr(b, name) for b in batches]) for name in ("lines", "positions", "chosen")
    }
