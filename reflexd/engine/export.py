"""Decides the graph that is served: encoder, pooling and normalisation in one ONNX file, fp32 or int8.

int8 is dynamic quantisation with one scale a weight channel: with one scale a tensor the embeddings of all-MiniLM-L6-v2
keep a cosine of only .892 to the fp32 ones (banking77, 1,000 texts), with one a channel .992 at the same speed.
`reduce_range` keeps 7 bits so that processors without VNNI cannot overflow.
"""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel

from reflexd.engine.backbone import (
    DESCRIPTION,
    GRAPH,
    STACK,
    TOKENIZER,
    EncoderDescription,
    ExportSpec,
    read_description,
)
from reflexd.engine.encoder import Encoder
from reflexd.engine.lifeline import end_with_parent
from reflexd.errors import StartupError
from reflexd.registry.files import new_directory, remove_directory, sha256_file, write_durably

MIN_COSINE = {"fp32": 0.9999, "int8": 0.95}
SAMPLES = (
    "I was charged twice this month",
    "Der Knopf zum Absenden tut nichts",
    "Please summarise the attached report in three sentences, and mention every figure that changed since last year.",
    "ok",
)


class PooledEncoder(torch.nn.Module):
    """An encoder whose output is one unit vector a text: input_ids, attention_mask [rows, tokens] -> [rows, width]."""

    def __init__(self, encoder: Any, pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Encode, pool over the real tokens, normalise."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, dim=-1)


def export(spec: ExportSpec) -> None:
    """Write the exported encoder to spec.target, whole or not at all, unless a good one is there by then.

    One process at a time exports into a cache; the others wait, and find the work done.
    """
    source, target = Path(spec.source), Path(spec.target)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if read_description(target) is None:
            remove_directory(target)
            _export(spec, source, target)


def _export(spec: ExportSpec, source: Path, target: Path) -> None:
    encoder = AutoModel.from_pretrained(
        source, attn_implementation="eager", local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()
    model = PooledEncoder(encoder, spec.pooling).eval()
    with new_directory(target) as temporary:
        graph = temporary / GRAPH
        _write_graph(model, graph, encoder.config.max_position_embeddings)
        if spec.precision == "int8":
            full = graph.rename(temporary / "full.onnx")
            quantize_dynamic(full, graph, weight_type=QuantType.QInt8, reduce_range=True, per_channel=True)
            full.unlink()
        write_durably(temporary / TOKENIZER, (source / "tokenizer.json").read_bytes())
        description = EncoderDescription(
            name=spec.name,
            fingerprint=spec.fingerprint,
            precision=spec.precision,
            stack=STACK,
            width=encoder.config.hidden_size,
            max_tokens=encoder.config.max_position_embeddings,
            pooling=spec.pooling,
            graph_sha256=sha256_file(graph),
        )
        write_durably(temporary / DESCRIPTION, msgspec.json.encode(description))
        _check(model, Encoder(temporary))


def _write_graph(model: PooledEncoder, path: Path, max_tokens: int) -> None:
    rows, tokens = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("tokens", min=2, max=max_tokens)
    shape = {0: rows, 1: tokens}
    # Two tensors: given one object twice, the exporter takes both inputs for the same one.
    example = (torch.ones(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.long))
    program = torch.onnx.export(
        model,
        example,
        dynamo=True,
        verbose=False,
        input_names=["input_ids", "attention_mask"],
        # Not "embedding": the quantiser would meet that name twice in a BERT graph.
        output_names=["sentence_vector"],
        dynamic_shapes={"input_ids": shape, "attention_mask": shape},
    )
    if program is None:  # the exporter's type allows for it
        raise StartupError("the exporter made no graph of it")
    program.save(path)


def _check(model: PooledEncoder, exported: Encoder) -> None:
    """Raise StartupError unless the exported encoder gives nearly the vectors of the original."""
    floor = MIN_COSINE[exported.description.precision]
    for text in SAMPLES:
        ids = torch.tensor([exported.token_ids(text)])
        with torch.no_grad():
            original = model(ids, torch.ones_like(ids))[0].numpy()
        cosine = float(original @ exported.forward(ids[0].tolist()))
        if not cosine >= floor:
            raise StartupError(f"its {exported.description.precision} vectors differ too much (cosine {cosine:.3f})")


if __name__ == "__main__":
    end_with_parent()
    export(msgspec.json.decode(sys.argv[1], type=ExportSpec))
