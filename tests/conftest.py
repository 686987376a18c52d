from hypothesis import settings

# Machines differ in speed; timings decide no test. The seed of a failure is printed by hypothesis itself.
settings.register_profile("fedmb", deadline=None, print_blob=True)
settings.load_profile("fedmb")
