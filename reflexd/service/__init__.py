"""Decides what a request means: checks it, changes rows and files, and answers in the API's own objects."""
