"""How far apart numbers of the same network may be."""

# fp32 rounds each operation to 6e-8, and sums are taken in another order in another batch, on another
# instruction set, by another number of threads. Over some hundred additions a product and a few layers that
# comes to 5e-6 in a probability at most: 60 prompts of tiny alone and in packs, by plain and by AVX2
# instructions, with 1, 2 and 4 threads.
FP32 = 1e-5
