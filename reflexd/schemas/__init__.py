"""Decides the shape of everything on a wire: one module a surface, msgspec Structs only."""
