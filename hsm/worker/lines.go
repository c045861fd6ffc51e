package worker

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
)

// maxLine bounds a line of a worker in the log, in bytes.
const maxLine = 4096

// copyLines writes what a worker says to the log, a line at a time, until it says no more.
func copyLines(log *slog.Logger, r io.Reader) {
	b := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := b.ReadSlice('\n')
		if n := len(line); n > 0 && line[n-1] == '\n' {
			line = line[:n-1]
		}
		if len(line) > 0 {
			log.Warn("worker says", "line", string(line))
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that is too long
			_, err = b.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}
