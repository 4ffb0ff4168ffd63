"""The contract: what lies on disk, and what the other rooms say to each other. Imports nothing of ours."""
