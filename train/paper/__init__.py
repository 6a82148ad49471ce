"""The paper's tables, claims and logs beside ours."""
