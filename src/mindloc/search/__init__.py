"""Indexes of tiles that can be searched: FAISS in a folder, Milvus on a server; knows nothing of MindSpore."""
