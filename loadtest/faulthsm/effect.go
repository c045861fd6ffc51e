package faulthsm

import (
	"fmt"
	"strconv"
	"time"

	"keyway/hsm"
)

// Effect is what a [Rule] does to a call, in the control language. Make one with the functions of this file.
type Effect string

// Time is a distribution of times, in the control language. Make one with [Fixed], [Uniform], [Exponential] or [LogNormal].
type Time string

// Fixed is always d.
func Fixed(d time.Duration) Time { return Time("fixed " + span(d)) }

// Uniform is anything from shortest to longest.
func Uniform(shortest, longest time.Duration) Time {
	return Time("uniform " + span(shortest) + " " + span(longest))
}

// Exponential has a mean.
func Exponential(mean time.Duration) Time { return Time("exponential " + span(mean)) }

// LogNormal has a median; sigma is the deviation of the logarithm, above 0 and at most 5.
func LogNormal(median time.Duration, sigma float64) Time {
	return Time("lognormal " + span(median) + " " + decimal(sigma))
}

// span writes a duration exactly, in nanoseconds, which is a unit of the language.
func span(d time.Duration) string { return strconv.FormatInt(int64(d), 10) + "ns" }

func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func number(c hsm.Code) string { return fmt.Sprintf("0x%X", uint64(c)) }

// Call is where the token is called. Effects before it happen before the call, those after it
// when the token has done its work; without it all happen before.
func Call() Effect { return "call" }

// Return answers with a code. Before the call the token is not asked, and an operation that is pending there is ended as the
// standard says; after it the token's answer is lost.
func Return(c hsm.Code) Effect { return Effect("return " + number(c)) }

// ReturnPending answers with a code and leaves the operation pending, as some tokens do.
func ReturnPending(c hsm.Code) Effect { return Return(c) + " leave-active" }

// Sleep waits.
func Sleep(t Time) Effect { return Effect("sleep " + string(t)) }

// Hang waits until the rule is released or removed.
func Hang() Effect { return "hang" }

// Crash ends the process by a write to nowhere (SIGSEGV).
func Crash() Effect { return "crash" }

// Logout drops the login of the session's token, by a real C_Logout.
func Logout() Effect { return "logout" }

// LogoutWith drops the login, and calls that need it answer with a code until the next C_Login, whatever the token would say.
func LogoutWith(c hsm.Code) Effect { return Effect("logout code " + number(c)) }

// CloseSession closes the session of the call under it.
func CloseSession() Effect { return "close-session" }

// CloseSessions closes all sessions of the token.
func CloseSessions() Effect { return "close-sessions" }

// ForgetObjects makes every object handle given out so far invalid.
func ForgetObjects() Effect { return "forget-objects" }

// RemoveToken takes the token away for a time; 0: until it is returned. Its sessions die.
func RemoveToken(d time.Duration) Effect {
	if d == 0 {
		return "remove-token"
	}
	return Effect("remove-token for " + span(d))
}

// Flip changes one bit of the result, chosen by chance.
func Flip() Effect { return "flip" }

// FlipBit changes one bit of the result, counted from the first byte's highest.
func FlipBit(n int) Effect { return Effect("flip bit " + strconv.Itoa(n)) }

// Shorten cuts bytes off the result's end.
func Shorten(bytes int) Effect { return Effect("shorten " + strconv.Itoa(bytes) + "B") }

// Leak loses memory.
func Leak(bytes int) Effect { return Effect("leak " + strconv.Itoa(bytes) + "B") }

// Serve makes calls wait for one of n servers, which each take the time for a call.
func Serve(n int, t Time) Effect { return Effect(fmt.Sprintf("serve %d %s", n, t)) }

// ServeRefusing is Serve, but a call that would wait longer than beyond is refused with a code.
func ServeRefusing(n int, t Time, c hsm.Code, beyond time.Duration) Effect {
	return Serve(n, t) + Effect(" refuse "+number(c)+" beyond "+span(beyond))
}

// Nothing only counts.
func Nothing() Effect { return "nothing" }
