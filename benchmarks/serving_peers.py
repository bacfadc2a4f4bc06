"""Decides what a peer server is: FastAPI around a transformers pipeline, or around a SetFit model, on one thread.

Run by the peers' own environment: `python -m benchmarks.serving_peers pipeline|setfit FOLDER PORT`, FOLDER holding
all-MiniLM-L6-v2. The pipeline's classifier is that encoder with a linear layer; what it answers is not looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

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


def main() -> None:
    """Serve until ended."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import create_model

    kind, folder, port = sys.argv[1:]
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
