"""Work that waits for a GPU: measured or trained on a machine that has one, brought back to one that has not.

    python jobs/gpu_queue.py prepare      here: fills .gpu/ with pictures, wheels and what earlier runs brought back
    python jobs/gpu_queue.py run ...      there: does the next items, plain torch, until the minutes are over
    python jobs/gpu_queue.py collect DIR  here: checks and files what came back

The machine with the GPU gets a copy of the working tree and the ignored folder .gpu/, reaches nothing outside, and
only a few files of limited size come back from it. `items.ITEMS` is the queue.
"""
