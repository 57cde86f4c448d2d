"""What should be: rows with reasons, from facts, policy and now.

A planner does no I/O, writes no log and reads no clock, so the same facts always give the same plan.

- *candidate*: a file, or one copy of it, that a planner looks at.
- *refused*: a candidate that got no row; plans count them by reason.
- *wave*: the copies that all sources make at the same time, one each; a plan of copies is a list of waves.
- *room*: bytes that may still go to a destination before it reaches evict's target.
- *victim*: a copy that is to be deleted; the *keeper* is the copy that stays.
- *guard*: a limit over which a whole plan of deletions is refused.
- *batch*: delete rows carried out in one turn of the deletion lock.

Reasons for which a candidate is refused:

    unknown          not in both inputs with rank > 0 and size > 0
    ignored-prefix   its name begins with a prefix of ignore.prefixes
    unsafe-name      its name cannot stand for a file below a root
    on-destination   a destination has it already, by history or inventory
    copying          a copy of it is ready or running
    no-destination   no destination is living and listed
    no-source        no living, listed source has it with the expected size
    source-busy      every source that has it is copying
    pair-cooling     every source and destination that could do it rest after a failure
    no-room          no destination could take it and stay at or under the target
    not-looked-at    the asked number of rows was reached before
    origin-lacks     every source was listed and none has it with the expected size
    origin-unknown   no listed source has it, and some source could not be listed
    no-keeper        no holder of the history is living and seen to have it
    keeper-is-lowest the keeper is the lowest holder, so nothing lies below it
    taken            dedup deletes it in this cycle
    hot              it is hot
    size-differs     the copy has another size than the history says
    young            it arrived less than evict.min_residency ago
"""
