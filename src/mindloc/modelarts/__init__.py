"""A job on Huawei's ModelArts: copies in, starts the same commands as everywhere, copies out. Alone knows moxing."""
