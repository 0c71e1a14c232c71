"""The ids that every vocabulary here reserves, as T5 does."""

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2
