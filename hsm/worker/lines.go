package worker

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"time"
)

const (
	// maxLine bounds a line of a worker in the log, in bytes.
	maxLine = 4096
	// maxLines is how many lines of one worker the log takes in each linesEvery: some libraries never stop talking.
	maxLines   = 200
	linesEvery = 10 * time.Second
)

// copyLines writes what a worker says to the log, a line at a time, until it says no more.
func copyLines(log *slog.Logger, r io.Reader) {
	b := bufio.NewReaderSize(r, maxLine)
	var begun time.Time
	said := 0
	leftOut := func() {
		if said > maxLines {
			log.Warn("worker says more than the log takes", "left_out", said-maxLines)
		}
	}
	defer leftOut()
	for {
		line, err := b.ReadSlice('\n')
		if n := len(line); n > 0 && line[n-1] == '\n' {
			line = line[:n-1]
		}
		if now := time.Now(); now.Sub(begun) >= linesEvery {
			leftOut()
			begun, said = now, 0
		}
		if len(line) > 0 {
			if said++; said <= maxLines {
				log.Warn("worker says", "line", string(line))
			}
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that is too long
			_, err = b.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}
