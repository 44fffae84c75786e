"""A small text-to-image diffusion model, really trained, that does what its prompts say."""
