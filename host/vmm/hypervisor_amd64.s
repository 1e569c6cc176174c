#include "textflag.h"

// func hypervisorLeaf() (ebx, ecx, edx uint32)
TEXT ·hypervisorLeaf(SB), NOSPLIT, $0-12
	MOVL $0x40000000, AX
	XORL CX, CX
	CPUID
	MOVL BX, ebx+0(FP)
	MOVL CX, ecx+4(FP)
	MOVL DX, edx+8(FP)
	RET
