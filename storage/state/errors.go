package state

import "errors"

// The errors that callers branch on.
var (
	// ErrAbsent: no such record. Absence is not deletion (promise 4): hold, do not release.
	ErrAbsent = errors.New("record absent")
	// ErrDamaged: the record or its block does not bear its MAC or checksum. It is never reported as absent.
	ErrDamaged = errors.New("record damaged")
	// ErrFull: free space is below the watermark of this class of write. Nothing was written; reads go on.
	ErrFull = errors.New("disk below its watermark")
	// ErrHold: the bucket's sums did not fit at the last scrub; nothing in it is deleted until it was repaired.
	ErrHold = errors.New("bucket on hold")
	// ErrTooLarge: the value exceeds MaxValue, the key MaxKey, or the transaction 15 % of the memtable.
	ErrTooLarge = errors.New("too large for one record or transaction")
	// ErrLocked: another process holds this directory.
	ErrLocked = errors.New("directory held by another process")
	// ErrBackup: a backup's counts or roots do not fit its lines.
	ErrBackup = errors.New("bad backup")
	// ErrClosed: the store is closed for good; only a new process opens it.
	ErrClosed = errors.New("store is closed")
	// ErrSchema: a newer release wrote this directory; nothing was touched.
	ErrSchema = errors.New("written by a newer release")
	// ErrNotEmpty: a backup is restored into an empty state only.
	ErrNotEmpty = errors.New("state is not empty")
	// ErrMarks: neither marks file is valid although at least one exists.
	ErrMarks = errors.New("no valid marks")
	// ErrStop ends a walk early; the walk then returns nil.
	ErrStop = errors.New("stop")
)
