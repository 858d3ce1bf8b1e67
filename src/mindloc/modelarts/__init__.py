"""A job on Huawei's ModelArts: copies data in, runs the usual commands, copies results out. Alone uses moxing."""
