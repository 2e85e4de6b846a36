"""The model card of a bundle: Markdown for people, written from facts and never from wishes.

Facts that the card knows (all optional, keys of `Bundle.facts`): `nimg`, `fingerprint`, `data` (a source, a
list of sources, or {role: {source, fingerprint, count}}), `data_fingerprint`, `metrics` ({name: number}),
`per_class` ({class: number}), `parents` ({role: bundle URI}), `licence`, `notes`, `command`. Others are listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raygseg.bundle import Bundle
from raygseg.labels import LabelSpace

_TITLES = {"few-shot": "few-shot network"}  # where the kind alone is no noun
_WHAT = {
    "segmenter": "Gives every pixel of a picture its part class.",
    "few-shot": "Segments pictures by the classes of a few labelled ones that are given with them: a support set.",
    "sampler": "Makes pictures with label maps out of seeds: the same seed gives the same pair anywhere.",
    "generator": "Makes pictures out of seeds: the same seed gives the same picture anywhere.",
}
_LIMITS = {
    "segmenter": (
        "Trained on one kind of object; pictures of anything else get an answer too, and it means nothing.",
        "Pictures are brought to the training resolution and the answer is brought back: finer parts are lost.",
        "Figures hold for the data named above; measure on your own pictures before relying on it.",
    ),
    "few-shot": (
        "One prototype a class: classes whose looks differ within a picture, and small ones, are found poorly.",
        "Pictures are brought to the training resolution and the answer is brought back: finer parts are lost.",
        "How well a class is found depends on the support pictures; measure with `raygseg episodes`.",
    ),
    "sampler": (
        "Pairs are as varied as the generator's training pictures and no more.",
        "Label maps repeat the mistakes of what learnt them from a few labels; mind the score column.",
    ),
    "generator": ("Pictures resemble the training pictures, with their gaps and biases.",),
}
_KNOWN = (
    "nimg", "fingerprint", "data", "data_fingerprint", "metrics", "per_class", "parents", "licence", "notes", "command",
)  # fmt: skip


def model_card(name: str, bundle: Bundle) -> str:
    """Markdown: what it is, data and fingerprints, labels, figures, how to use it, limits, licence."""
    facts = bundle.facts
    parts = [
        f"# {name}: a {_TITLES.get(bundle.kind, bundle.kind)}",
        _what(bundle),
        _data(facts),
        _labels(bundle.labels, facts.get("per_class") or {}),
        _metrics(facts.get("metrics") or {}),
        _usage(name, bundle.kind),
        _limits(bundle.kind, facts),
        "## Licence\n\n"
        + str(facts.get("licence") or "The code is Apache-2.0. The weights inherit what the training data allows."),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(bundle: Bundle) -> str:
    count = sum(int(tensor.numel()) for tensor in bundle.tensors.values())
    lines = [_WHAT.get(bundle.kind, f"A trained {bundle.kind}."), ""]
    lines.append(f"- Numbers in the weights: {count:,}")
    resolution = bundle.build.get("resolution")
    if resolution:
        lines.append(f"- Resolution: {resolution} px")
    if bundle.facts.get("nimg"):
        seen = "Episodes" if bundle.kind == "few-shot" else "Pictures"
        lines.append(f"- {seen} seen in training: {int(bundle.facts['nimg']):,}")
    if bundle.facts.get("command"):
        lines.append(f"- Trained by: `{bundle.facts['command']}`")
    for key, value in bundle.facts.items():
        if key not in _KNOWN and isinstance(value, (str, int, float)):
            lines.append(f"- {key}: {value}")
    return "\n".join(lines)


def _data(facts: Mapping[str, Any]) -> str:
    lines = []
    data = facts.get("data")
    if isinstance(data, Mapping):
        for role, source in data.items():
            lines.append(f"- {role}: {_source(source)}")
    elif isinstance(data, str):
        lines.append(f"- {data}")
    elif isinstance(data, Sequence):
        lines += [f"- {_source(source)}" for source in data]
    for key in ("data_fingerprint", "fingerprint"):
        if facts.get(key):
            lines.append(f"- {'data' if key.startswith('data') else 'configuration'} fingerprint: `{facts[key]}`")
    for role, uri in (facts.get("parents") or {}).items():
        lines.append(f"- made from the {role} `{uri}`")
    return "## Data and origin\n\n" + "\n".join(lines) if lines else ""


def _source(source: Any) -> str:
    if not isinstance(source, Mapping):
        return str(source)
    text = str(source.get("source", "?"))
    if "count" in source:
        text += f", {int(source['count']):,} items"
    if source.get("fingerprint"):
        text += f", fingerprint `{source['fingerprint']}`"
    return text


def _labels(labels: LabelSpace | None, per_class: Mapping[str, float]) -> str:
    if labels is None:
        return ""
    mirrored = {a: b for pair in labels.swaps for a, b in (pair, pair[::-1])}
    figure = [" IoU |", "---:|"] if per_class else ["", ""]
    lines = ["| index | class | colour | mirrored |" + figure[0], "|---:|---|---|---|" + figure[1]]
    for i, name in enumerate(labels.names):
        colour = "#{:02x}{:02x}{:02x}".format(*labels.palette[i])
        line = f"| {i} | {name} | {colour} | {labels.names[mirrored[i]] if i in mirrored else ''} |"
        lines.append(line + (f" {_number(per_class.get(name))} |" if per_class else ""))
    if labels.void is not None:
        lines.append(f"| {labels.void} | (void: not labelled) |  |  |" + ("  |" if per_class else ""))
    return "## Labels\n\n" + "\n".join(lines)


def _metrics(metrics: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_number(value)} |" for name, value in metrics.items()]
    return "## Figures\n\n| metric | value |\n|---|---:|\n" + "\n".join(rows) if rows else ""


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _usage(name: str, kind: str) -> str:
    uri = f"models:/{name}@champion"
    python = {
        "segmenter": f'segmenter = raygseg.load_segmenter("{uri}")\n'
        "answers = segmenter.predict([picture])  # uint8 [H, W, 3]; answers[0].label_map, answers[0].confidence",
        "few-shot": f'segmenter = raygseg.load_segmenter("{uri}", support="LABELLED")  # images/, masks/, labels.json\n'
        "answers = segmenter.predict([picture])  # uint8 [H, W, 3]; answers[0].label_map, answers[0].confidence",
        "sampler": f'sampler = raygseg.load_sampler("{uri}")\n'
        "pairs = sampler.sample([0, 1, 2])  # images, probabilities, scores",
        "generator": f'generator = raygseg.load_generator("{uri}")\n'
        "pictures = generator.render(generator.latents([0, 1, 2])).images",
    }.get(kind)
    command = {
        "segmenter": f"raygseg segment {uri} PICTURES --output PARTS",
        "few-shot": f"raygseg segment {uri} PICTURES --support LABELLED --output PARTS",
        "sampler": f"raygseg generate name=pairs sampler={uri} num_pairs=1000 output=PAIRS",
        "generator": f"raygseg sample {uri} --count 10 --output TO_LABEL",
    }.get(kind)
    serving = {
        "segmenter": "uint8 pictures [N, H, W, 3] -> uint8 label maps [N, H, W]",
        "few-shot": "{support_pictures, support_maps, pictures} -> uint8 label maps [N, H, W]",
        "sampler": "int64 seeds [N] -> {image, mask, score}",
        "generator": "int64 seeds [N] -> uint8 pictures [N, R, R, 3]",
    }.get(kind)
    if python is None:
        return ""
    blocks = [
        f"```python\nimport raygseg\n\n{python}\n```",
        f"```bash\n{command}\nraygseg pull {name} --output FOLDER\n```",
        f'Through MLflow: `mlflow.pyfunc.load_model("{uri}").predict(x)`, {serving}.',
    ]
    return "\n\n".join(["## Use", *blocks])


def _limits(kind: str, facts: Mapping[str, Any]) -> str:
    lines = [*_LIMITS.get(kind, ()), *([str(facts["notes"])] if facts.get("notes") else [])]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""
