"""Make and compare clips: full attention and each method from the same prompt and seed, with two noise floors."""
