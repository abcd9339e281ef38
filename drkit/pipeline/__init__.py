"""The data paths: from a helper's tar stream to chunks and members, and back.

The threads of a capture, and what passes between them:

    helper container                  drkit

    tar's list  <-- FIFO in  -------  drkit-list  <-- paths to read
    find, tar   --- FIFO out ------>  drkit-read-ahead  --(4 blocks of 2 MiB)-->  main
    messages    --- FIFO err ------>  drkit-helper-stderr  --(the first 1 MiB)-->  main, at the end
    exit code   --- engine  ------->  drkit-helper-wait  --(an eventfd)-->  whoever waits for a FIFO

    main        frames, cuts and names chunks; fills packs; merges the tree
      <-->      drkit-digest, 1: hashes a member that is larger than the buffer, while main cuts it
      <-->      drkit-seal, 2: compress, seal and read back chunks, at most 8 MiB at a time
      -->       drkit-put, one for each put that the storage takes at once: store full packs
      <--       drkit-read, one for each get likewise: fetch and open the chunks of the previous tree

- `HelperProcess` starts helper-wait and helper-stderr. They end with the container, which `close` kills if need be.
  Over the attach stream, drkit-attach-output and drkit-attach-input also run, between the engine's connections and
  pipes that take the place of the FIFOs.
- `requested` starts list and read-ahead, and joins both on leaving. After an error it first aborts the helper, which
  wakes them.
- `MemberStream` starts and joins digest. `RunWriter` has seal, put and the heartbeat drkit-session for a whole run,
  `ChunkReader` has read; leaving them as context managers ends their threads.
- `StandBy` has drkit-standby, which starts the next target's helper while this one works, and a verification's while
  the extraction goes on. Leaving it ends the helper that was not taken.
- drkit-engine removes the helper of an unchanged target while the run goes on. `Engine.close` joins it.

No thread but main decides anything. What one raises reaches main where it takes the result: from the queue of blocks,
from a future, or from the next read or write of the helper. Every queue is bounded in bytes, so whoever is too fast
waits: tar stands still when its FIFO and the blocks are full, main when packs are stored too slowly. They run in
parallel although Python has one interpreter lock: system calls, zstd, BLAKE3, AES and the chunker release it.

A restore turns it round: drkit-read fetches chunks ahead, up to a bound in bytes, and main writes them to the FIFO
`in` of a tar that extracts. Its verification is a capture whose members are digested and not chunked.
"""
