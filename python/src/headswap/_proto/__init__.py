"""Generated from the protos by `python/generate`; do not edit."""
