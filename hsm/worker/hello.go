package worker

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"keyway/hsm"
)

// hello is the parent's first frame: protocol, parameters, PIN. The PIN is not part of the JSON,
// since encoders keep buffers that nobody wipes.
type hello struct {
	params json.RawMessage
	pin    []byte
}

func (h *hello) size() int { return sizeLen + headLen + 4 + 4 + len(h.params) + len(h.pin) }

func (h *hello) append(b []byte) []byte {
	start := len(b)
	b = beginFrame(b, head{verb: verbHello})
	b = binary.LittleEndian.AppendUint32(b, protocol)
	return endFrame(append(appendBytes(b, h.params), h.pin...), start)
}

// parseHello reads what append wrote. The parameters are a copy; the PIN is a slice of the frame.
func parseHello(frame []byte) (hello, error) {
	hd, f, err := parseFrame(frame)
	if err != nil || hd.verb != verbHello {
		return hello{}, fmt.Errorf("%w: not a hello", errFrame)
	}
	if p := f.u32(); !f.bad && p != protocol {
		return hello{}, fmt.Errorf("the supervisor speaks protocol %d and this program %d: the program was replaced while it ran, restart it", p, protocol)
	}
	h := hello{params: append(json.RawMessage(nil), f.bytes()...), pin: f.rest()}
	return h, f.end()
}

// parseInfo reads the answer to a hello: the token's Info, or why there is no token.
func parseInfo(frame []byte) (hsm.Info, error) {
	var info hsm.Info
	hd, f, err := parseFrame(frame)
	if err != nil || hd.verb != verbHello|answerBit {
		return info, fmt.Errorf("%w: not the answer to a hello", errFrame)
	}
	var a answer
	if err := a.parse(&f); err != nil {
		return info, err
	}
	if a.err != nil {
		return info, a.err
	}
	if len(a.out) > maxInfo {
		return info, fmt.Errorf("%w: what the token is takes %d bytes", errFrame, len(a.out))
	}
	if err := json.Unmarshal(a.out, &info); err != nil {
		return hsm.Info{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	if info.MaxSessions < 0 || info.OpenPerSecond < 0 || info.MaxObjects < 0 || info.Concurrency < 0 || info.IdleTimeout < 0 || info.SlowestCall < 0 {
		return hsm.Info{}, fmt.Errorf("%w: limits below zero", errFrame)
	}
	info.Clock = info.Clock.UTC() // whoever has broken into a worker chooses no zone's name either
	for _, s := range []*string{&info.Label, &info.Serial, &info.Manufacturer, &info.Model, &info.Firmware, (*string)(&info.Vendor)} {
		*s = printable(*s)
	}
	return info, nil
}

// maxInfo bounds what a token says of itself, in bytes.
const maxInfo = 64 << 10
