"""Indexes of tiles that can be searched: FAISS in a directory, Milvus on a server; never imports MindSpore."""
