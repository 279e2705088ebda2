//! Links between nodes: frames, lanes, credits, deadlines, peer identity, RTT.
