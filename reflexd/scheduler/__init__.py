"""Decides when things happen: which job runs next, and what the clock sets off."""
