"""Generated from protos/atelier/v1 by `make stubs`; do not edit."""
