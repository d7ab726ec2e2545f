class FramesAdapter: pass
class CBFSequenceAdapter: pass
