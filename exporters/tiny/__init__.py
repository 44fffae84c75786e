"""A small text-to-image diffusion model, really trained, that does what its prompts say.

It draws one flat figure on a flat background, 64x64 pixels, from prompts such as "a red circle on
a blue background" or "a small green ring at the left on a yellow background". That is little, and
it is the point: whether such a picture is right can be measured, so a test of the whole service
can ask for something and see that it came.

    scenes      the grammar: Scene <-> prompt, and the drawing        (numpy only)
    checker     which scene does a picture show?                      (numpy only)
    tokenizer, models, dataset                                        what is trained, on what
    train       text encoder, then autoencoder, then denoiser         goes on if stopped
    checkpoint  the folder: diffusers' layout, fp16
    obey        obedience over 200 prompts, half of combinations never trained

What it took, on one thread of a CPU (`training.json` in the checkpoint):

    text encoder  0.14 M parameters    26 CPU s   every attribute linearly separable
    autoencoder   0.68 M              287 CPU s   36.5 dB
    denoiser      2.92 M              924 CPU s   4,200 steps of 16: 67,200 samples

What it reached, fp16 weights, prompts in every wording, seeds fixed; "right" is background colour,
shape colour, kind of shape, position and size all at once:

    DDIM 20 steps, guidance 1.5          200 of 200 (100 of 100 never trained); 999 of 1,000
    DDIM 10 or 4 steps, guidance 1.5     100 of 100 each
    Euler, DPM-Solver++, UniPC, 12 steps 100 of 100 each
    DDIM 20 steps, guidance 1 / 3 / 5    100 / 99 / 98 of 100
    DDIM 20 steps, guidance 7.5          89 of 100: colours overshoot, do not offer it as a default

Only the first line's 200 are kept as a result (`benchmarks/results/obedience.json`); the others
were run by hand. Known faults: a ring's outline is a little uneven, and what the model does with
words outside its grammar is not defined.

tiny-video (`video_*`) is a second model of the same kind: clips of 8 frames, in which the figure
crosses the picture to the left, right, up or down, or stands still. It has tiny-image's
autoencoder, a text encoder that knows motion, and a denoiser of all frames at once (`video_models`
says how).

    text encoder  0.14 M parameters    21 CPU s   every attribute linearly separable
    denoiser      5.85 M             1,108 CPU s   5,000 steps of 16: 80,000 clips; 51 CPU s before
                                                  it for their latents

What it reached; "right" is background colour, shape colour, kind of shape and direction at once:

    DDIM 20 steps, guidance 1.5          200 of 200 (100 of 100 never trained); 1,000 of 1,000
    DDIM 10, 4 or 2 steps, guidance 1.5  100 of 100 each
    Euler, DPM-Solver++, UniPC, 12 steps 100 of 100 each
    DDIM 20 steps, guidance 1 / 2 / 3    100 / 100 / 97 of 100
    DDIM 20 steps, guidance 5 / 7.5      73 / 44 of 100: do not offer more than 2

With velocity instead of x0 the same network stood at 8 % of all right and 66 % of frames with the
right shape after 3,000 steps (24 prompts); with x0 at 100 % after 3,600 (40 prompts). Known fault:
faint ghosts where the figure might have been, on frames at the ends of its way.
"""
