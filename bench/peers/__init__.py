"""The peers that the gateway is compared with: LiteLLM's proxy and Portkey's gateway, pinned, installed beside everything else.

`python -m bench.peers` installs them into `bench/.peers/` (a Python environment and a folder of node modules), which git
ignores. They are pinned in `litellm.txt`, `package.json` and `package-lock.json` here. A peer that cannot be installed is
left out of the run, and the reason is kept for its results.
"""
