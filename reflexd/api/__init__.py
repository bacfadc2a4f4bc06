"""Decides how HTTP maps to services: handlers of a few lines, one error shape, default-deny authorisation."""
