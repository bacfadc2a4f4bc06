"""Decides what a peer server is: FastAPI around a transformers pipeline or a SetFit model, or infinity; on one thread.

Run by the peers' own environment: `python -m benchmarks.serving_peers pipeline|setfit|infinity FOLDER PORT`, FOLDER
holding all-MiniLM-L6-v2. The pipeline's classifier is that encoder with a linear layer; what it answers is not looked
at. infinity classifies nothing: it answers /embeddings with the vector, and so does less than the others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

ROWS = (("I was charged twice", 0), ("The app crashes", 1), ("Refund my payment", 0), ("An error appears", 1))


def pipeline_of(folder: str) -> Callable[[str], Any]:
    """Return the pipeline's answer to a text."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    torch.set_num_threads(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    made: Any = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder), device=-1)
    return lambda text: made(text, top_k=None)


def setfit_of(folder: str) -> Callable[[str], Any]:
    """Return a SetFit model's answer to a text; its head is fitted, its encoder is as it came."""
    import torch
    from setfit import SetFitModel

    torch.set_num_threads(1)
    model = SetFitModel.from_pretrained(folder)
    model.model_head.fit(model.encode([text for text, _ in ROWS]), [label for _, label in ROWS])
    return lambda text: model.predict_proba([text])[0].tolist()


def become_infinity(folder: str, port: str) -> NoReturn:
    """Serve by infinity's own command line and torch engine, whose settings are the defaults but for the thread."""
    command = str(Path(sys.executable).with_name("infinity_emb"))
    options = {"model-id": folder, "engine": "torch", "device": "cpu", "host": "127.0.0.1", "port": port}
    quiet = {"log-level": "error"}
    arguments = [part for name, value in (options | quiet).items() for part in (f"--{name}", value)]
    alone = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    os.execve(command, [command, "v2", *arguments], os.environ | alone)


def main() -> None:
    """Serve until ended."""
    kind, folder, port = sys.argv[1:]
    if kind == "infinity":
        become_infinity(folder, port)
    import uvicorn
    from fastapi import FastAPI
    from pydantic import create_model

    answer = {"pipeline": pipeline_of, "setfit": setfit_of}[kind](folder)
    app = FastAPI()
    body: Any = create_model("Body", text=(str, ...))

    def predict(given: body) -> Any:
        return {"answer": answer(given.text)}

    predict.__annotations__["given"] = body
    app.post("/predict")(predict)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
