package sqlstore

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// advice says what to do about results of SQLite that a person has to deal with, by primary result code
// (https://www.sqlite.org/rescode.html).
var advice = map[int]string{
	sqlite3.SQLITE_NOTADB:   "the file is no SQLite database, or its beginning is damaged: restore it from a backup, or name another file",
	sqlite3.SQLITE_CORRUPT:  "the file is damaged: restore it from a backup; nothing was changed",
	sqlite3.SQLITE_FULL:     "the disk is full: make room on it",
	sqlite3.SQLITE_READONLY: "the file cannot be written to: give it and its directory to this user, and see that the disk is not mounted read-only",
	sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: see that its directory exists and that this user may write to both",
	sqlite3.SQLITE_IOERR:    "the disk failed: see the system's log",
	sqlite3.SQLITE_BUSY:     "another process has been writing to the file for too long: end it if it hangs",
}

// adviseSQLite adds the advice to an error of SQLite, and leaves every other as it is.
func adviseSQLite(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	if a, ok := advice[e.Code()&0xff]; ok {
		return fmt.Errorf("%s (%w)", a, err)
	}
	return err
}
