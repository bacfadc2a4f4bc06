"""Decides how text becomes a classifier and a classifier an answer; knows neither the store nor the API."""
