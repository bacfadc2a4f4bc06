"""Decides what is served of an encoder: one ONNX file with its pooling, fp32 or int8, or in bf16 weights for torch.

The biases of the linear layers are an input of the ONNX graph, so that one session serves every bias adapter (measured:
3 to 5 % of a forward, and the same bits). The output is two layers' vectors side by side: the second costs 1 %.
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from safetensors.numpy import save as save_tensors

from reflexd.engine.architecture import layers_of, load, readable_tokens
from reflexd.engine.backbone import (
    BIASES,
    DESCRIPTION,
    GRAPH,
    LOW_RANK_GRAPH,
    STACK,
    TOKENIZER,
    EncoderDescription,
    ExportSpec,
    read_description,
)
from reflexd.engine.decoder_export import export_decoder
from reflexd.engine.encoder import Encoder
from reflexd.engine.layers import last_and_middle, linear_layers, pool
from reflexd.engine.lifeline import end_with_parent
from reflexd.engine.low_rank_graph import write_low_rank_graph
from reflexd.engine.quantisation import quantise
from reflexd.engine.torch_backbone import load_model
from reflexd.engine.torch_encoder import TorchEncoder
from reflexd.engine.torch_export import write_model
from reflexd.errors import StartupError
from reflexd.registry.backbones import LAST_TOKEN
from reflexd.registry.files import new_directory, remove_directory, replace_file, sha256_file, write_durably

MIN_COSINE = {"fp32": 0.9999, "bf16": 0.99, "int8": 0.95}
SAMPLES = (
    "I was charged twice this month",
    "Der Knopf zum Absenden tut nichts",
    "Please summarise the attached report in three sentences, and mention every figure that changed since last year.",
    "ok",
)


class PooledEncoder(torch.nn.Module):
    """An encoder whose output is what heads are fitted on, and whose linear layers' biases are an input.

    input_ids, attention_mask [rows, tokens], biases [all linear layers' biases, one after the other] ->
    [rows, 2 * width]: the unit vectors of the last and of the middle layer.
    """

    def __init__(self, encoder: Any, pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        linear = linear_layers(encoder)
        self.weights = [f"{name}.weight" for name in linear]
        self.biases = {f"{name}.bias": layer.bias.numel() for name, layer in linear.items() if layer.bias is not None}

    def given_biases(self) -> Any:
        """Return the encoder's own biases as the input of `forward`."""
        own = [self.encoder.get_parameter(name).detach() for name in self.biases]
        return torch.cat(own) if own else torch.zeros(0)

    def forward(self, input_ids: Any, attention_mask: Any, biases: Any) -> Any:
        """Encode, pool both layers over the real tokens, normalise."""
        parts = torch.split(biases, list(self.biases.values())) if self.biases else ()
        out = torch.func.functional_call(
            self.encoder,
            dict(zip(self.biases, parts, strict=True)),
            (),
            {"input_ids": input_ids, "attention_mask": attention_mask, "output_hidden_states": True},
        )
        return torch.cat([pool(layer, attention_mask, self.pooling) for layer in last_and_middle(out)], dim=-1)


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
            if spec.pooling == LAST_TOKEN:
                export_decoder(spec, source, target)
            elif spec.precision == "bf16":
                _export_weights(spec, source, target)
            else:
                _export(spec, source, target)


def _export_weights(spec: ExportSpec, source: Path, target: Path) -> None:
    served = load_model(source, spec.precision)
    with new_directory(target) as temporary:
        write_model(spec, served, temporary)
        _check(PooledEncoder(load(source), spec.pooling).eval(), TorchEncoder(temporary))


def _export(spec: ExportSpec, source: Path, target: Path) -> None:
    encoder = load(source)
    model = PooledEncoder(encoder, spec.pooling).eval()
    with new_directory(target) as temporary:
        graph, full = temporary / GRAPH, temporary / "full.onnx"
        max_tokens = readable_tokens(encoder)
        _write_graph(model, full, max_tokens)
        weights = _find_weights(model, full)
        write_durably(temporary / TOKENIZER, (source / "tokenizer.json").read_bytes())
        write_durably(temporary / BIASES, save_tensors(_biases(model)))
        shapes = {name: list(encoder.get_parameter(name).shape) for name in weights}

        def finish() -> None:
            changeable = write_low_rank_graph(graph, temporary / LOW_RANK_GRAPH, weights, shapes)
            description = EncoderDescription(
                name=spec.name,
                fingerprint=spec.fingerprint,
                precision=spec.precision,
                stack=STACK,
                width=encoder.config.hidden_size,
                layers=layers_of(encoder),
                max_tokens=max_tokens,
                pooling=spec.pooling,
                biases=model.biases,
                weights={name: shapes[name] for name in changeable},
                parameters=sum(encoder.get_parameter(name).numel() for name in model.weights),
                files={name: sha256_file(temporary / name) for name in (GRAPH, LOW_RANK_GRAPH, BIASES, TOKENIZER)},
            )
            replace_file(temporary / DESCRIPTION, msgspec.json.encode(description))
            _check(model, Encoder(temporary))

        if spec.precision == "fp32":
            full.rename(graph)
            finish()
            return
        quantise(full, graph, spare_wide=False)
        try:
            finish()
        except StartupError:
            quantise(full, graph, spare_wide=True)
            finish()
        full.unlink()


def _write_graph(model: PooledEncoder, path: Path, max_tokens: int) -> None:
    rows, tokens = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("tokens", min=2, max=max_tokens)
    shape = {0: rows, 1: tokens}
    # Two tensors: given one object twice, the exporter takes both inputs for the same one.
    example = (torch.ones(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.long), model.given_biases())
    program = torch.onnx.export(
        model,
        example,
        dynamo=True,
        verbose=False,
        input_names=["input_ids", "attention_mask", "biases"],
        # Not "embedding": the quantiser would meet that name twice in a BERT graph.
        output_names=["features"],
        dynamic_shapes={"input_ids": shape, "attention_mask": shape, "biases": {}},
    )
    if program is None:  # the exporter's type allows for it
        raise StartupError("the exporter made no graph of it")
    program.save(path)


def _find_weights(model: PooledEncoder, graph: Path) -> dict[str, str]:
    """Return the graph's name for each linear layer's weight, found by its value: the exporter renames them.

    A layer that the graph holds in another form, or not at all, is left out: it cannot be adapted.
    """
    held: dict[tuple[tuple[int, ...], bytes], str] = {}
    for tensor in onnx.load(graph).graph.initializer:
        if len(tensor.dims) == 2:
            held[tuple(tensor.dims), hashlib.sha256(onnx.numpy_helper.to_array(tensor).tobytes()).digest()] = (
                tensor.name
            )
    out = {}
    for name in model.weights:
        weight = model.encoder.get_parameter(name).detach().numpy().T
        found = held.get((weight.shape, hashlib.sha256(weight.tobytes()).digest()))
        if found is not None:
            out[name] = found
    return out


def _biases(model: PooledEncoder) -> dict[str, np.ndarray[Any, Any]]:
    """Return the encoder's own biases, which are an input of the graph."""
    return {name: np.ascontiguousarray(model.encoder.get_parameter(name).detach().numpy()) for name in model.biases}


def _check(model: PooledEncoder, exported: Encoder) -> None:
    """Raise StartupError unless the exported encoder gives nearly the vectors of the original."""
    floor = MIN_COSINE[exported.description.precision]
    for text in SAMPLES:
        ids = torch.tensor([exported.token_ids(text)])
        with torch.no_grad():
            original = model(ids, torch.ones_like(ids), model.given_biases())[0].numpy()
        cosine = float(original @ exported.forward(ids[0].tolist())) / 2  # of two unit vectors each
        if not cosine >= floor:
            raise StartupError(f"its {exported.description.precision} vectors differ too much (cosine {cosine:.3f})")


if __name__ == "__main__":
    end_with_parent()
    try:
        export(msgspec.json.decode(sys.argv[1], type=ExportSpec))
    except StartupError as error:
        sys.exit(str(error))
